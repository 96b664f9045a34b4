"""`python -m edge_af` is `edge-af`."""

from edge_af.cli import main

if __name__ == "__main__":
    main()
