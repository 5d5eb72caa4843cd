"""Benchmarks for asv: `cases` has the data and `plain` the NumPy side; each bench_ module measures one subject."""
