"""Side-by-side measurements against plain Celery, as ratios within one run; `make bench` writes `results.md`."""
