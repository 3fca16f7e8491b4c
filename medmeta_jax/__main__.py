"""`python -m medmeta_jax` is `medmeta`."""

from medmeta_jax.cli import main

if __name__ == "__main__":
    main()
