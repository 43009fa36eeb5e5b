"""The one exception that reaches a user as a message instead of a traceback."""


class UserError(ValueError):
    """Bad input from the user: a file, a flag or a config value.

    The message names the culprit (path, key, utterance id) and, where there is one, the remedy. The
    command line prints it without a traceback and exits with status 1.
    """


SYSTEM_FOLDER = "the folder of a system that kdasr train wrote, such as exp/demo/two-stage"
"""What messages call the argument EXP."""
