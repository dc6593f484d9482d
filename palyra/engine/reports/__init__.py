"""Reports: what was used, by whom and at what cost, as the rows of a journal tell it.

One pass over the rows, in memory that does not grow with them; the daemon and a command over a file use the same
code, so their figures are equal digit for digit at one position. Integers only: a share is in basis points, money
in nano-USD, and a cost that is not known is counted as not known, never as nothing.
"""
