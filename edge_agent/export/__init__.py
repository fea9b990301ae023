"""A landed run in the forms that repositories take: what is exported was compared with the run's own manifest before."""
