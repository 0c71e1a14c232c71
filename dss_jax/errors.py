"""The one exception that means "the input is wrong, not the program"."""


class UserError(ValueError):
  """Wrong input from the user, told in one line.

  The message names the value it got, what is allowed, and, where there is one,
  the gin binding or flag to change. The command line prints it without a
  traceback and exits with status 2.
  """
