"""The benchmarks: one script a question. README.md says which, and how to run them."""
