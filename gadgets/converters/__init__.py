"""Files: a fastMRI volume or a simulated patient as a scan in MRD, and images as the stock client stores them."""
