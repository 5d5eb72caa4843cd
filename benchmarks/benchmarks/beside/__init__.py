"""numbabn beside its peers and beside a copy: what compare.py and the asv suite share.

`batch` has the data and `grid` the shapes; `ours`, `plain` and `with_*` are the contenders, and `peers` finds those
that are installed; `copies` and `limit` say what memory allows; `timing` takes turns and `run` measures a whole grid;
`rows`, `report`, `figure` and `pages` show the results; `machine` says what they were measured on.
"""
