"""For tests of mbactor and of what is built with it. `contracts.py`: what every bus must do."""
