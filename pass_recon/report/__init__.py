"""What people see of scans and evaluations: pictures, figures, pages for the browser, DICOM."""
