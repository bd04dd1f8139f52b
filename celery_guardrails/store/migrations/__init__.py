"""How the archive's schema came about: one module a revision in `versions`."""
