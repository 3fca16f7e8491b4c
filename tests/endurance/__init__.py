"""What takes minutes to hours: `pytest -m endurance`, which prints its figures with `-rA`."""
