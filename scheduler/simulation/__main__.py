"""`python -m scheduler.simulation`: what `atelier simulate` and `atelier scenario` run."""

from scheduler.simulation.commands import app

if __name__ == "__main__":
    app()
