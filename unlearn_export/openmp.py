"""What OpenMP's threads do while they wait for each other. It is read when torch is imported, so it must be set before."""

# They sleep soon: with GNU's default they spin, and where another process needs the cores too, a clip took 25 times as long.
WAITING = {"GOMP_SPINCOUNT": "10000"}
