"""How fast the methods are beside plain implementations of the published algorithms: `make bench`.

Every module here compares our code with a plain one, written from the paper, on the sizes of the
real benchmarks. Both run alternately in one process, so that whatever else the machine does
strikes them alike, and the median of the ratios round by round counts.
"""
