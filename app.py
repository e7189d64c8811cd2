"""The WSGI application, for `gunicorn app:app`; run as a program it starts the whole stack on one machine."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  whoever starts it with an old one should be told
    sys.exit(f"reviewqueue needs Python 3.11 or newer; this is {sys.version.split()[0]}")

if __name__ == "__main__":
    from reviewqueue.running.stack import main

    sys.exit(main(sys.argv[1:]))

from reviewqueue.running.webserver import application

app = application()
