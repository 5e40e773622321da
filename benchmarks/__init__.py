"""What takes minutes and is committed: numbers of `sparsekd bench`, tables of the workloads and studies."""
