"""The console's API: questions that are answered from a fold or from rows, and changes that record facts.

Both are defined here, once, and know neither HTTP nor a command line. Two doors serve them: the daemon below
`/console/v1/`, and a command in its own process on the journal file. At the same position and instant both give the
same bytes.

To add a question: a `Params` of its own (`frame`), a function from a `Sight` and those to an `Answer`, and a row in
`table.QUESTIONS`. To add a change: a `Params`, a coroutine function that takes an `Order` and those, and a row in
`change_table.CHANGES`. A topic has one module; everything else (strict reading of what was sent, `at`, lists and
cursors, authorisation, idempotency, errors) is the frame's.
"""
