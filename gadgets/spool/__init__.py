"""Raw data, kept while a scan runs: written as they come, complete scans as MRD files, cut ones to be replayed."""
