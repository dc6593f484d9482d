"""The command line: commands and their rendering, no logic.

`main` finds a command and imports only that one; `command` is how each is made (common options, help, the way from
its function to an exit status). A function returns an `Answer` (`frame`): data that becomes the JSON document, and
how it is shown on a `page`, whose figures come from `render` and whose words from `words`. `reading` opens the
journal file; what is asked of it stands in `engine/*questions.py`, `history.py` and `inspection.py`, so that
other surfaces give the same answers.

Modules of commands are imported for `--help`, so at their top they import nothing that opens a file, a socket or a
database; `tests/cli/test_cli_program.py` lists what may not be there.
"""
