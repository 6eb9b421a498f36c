"""Stand-ins for the trainer and the generator, fast enough for hundreds of runs, and the small world they work in.

`train.py` and `generate.py` are programs with the command lines of sd-scripts; they need the standard library only.
`faults.py` defines their faults. `world.py` makes settings, grid, images and face pack around them.
"""
