"""What kety reaches, measured: ``python -m benchmarks`` from the root of the repository."""
