"""What the manual takes from conf/, from docstrings and from files of figures."""
