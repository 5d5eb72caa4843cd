"""Benchmarks for asv: `cases` has the shapes; each bench_ module measures one subject.

The data, the contenders and the limit are in `beside`, which compare.py at the top uses too.
"""
