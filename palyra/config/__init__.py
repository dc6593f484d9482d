"""Configuration: one TOML file, variables and flags; one typed tree, or a refusal with every problem at once.

One table says what can be written (`keys`); checking, variable names and listings follow from it. `document` finds
and reads a file, `positions` knows where each key stands in it, `layers` puts file, environment and flags on top
of each other (`values`), each value checked by its row (`schema`). `providers`, `models`, `rules` and `registry`
check what entries say about each other and fill in what is not said, from the rows of `flavors` and
`capabilities`. `load` is the door, `effective` what may be shown of the result, `state` the directory where
everything else lives.

Only a file that is no TOML at all ends the search for problems. Nothing here opens a socket, reads a secret, or
looks at the process's own environment; every command imports it, so it imports little.
"""
