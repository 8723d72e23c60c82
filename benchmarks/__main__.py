"""`python -m benchmarks NAME`."""

from benchmarks.harness.run import main

if __name__ == "__main__":
    main()
