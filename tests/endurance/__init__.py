"""What takes minutes to hours: `pytest -m endurance`; figures are in benchmarks/RESULTS.md."""
