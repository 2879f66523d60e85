"""An error as a user should read it."""


def sentence(error: BaseException) -> str:
    """What an error says, in one sentence; an error of the operating system comes without its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error) or type(error).__name__
