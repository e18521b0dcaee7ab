"""What `benchmarks.grading` measures with: a fake judge in a process of its own, and the rows of the table."""
