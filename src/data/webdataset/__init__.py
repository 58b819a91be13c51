"""Images in tar archives as webdataset writes them, read by their place and never unpacked."""
