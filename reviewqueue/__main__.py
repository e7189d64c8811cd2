"""`python -m reviewqueue NOUN VERB …`"""

from reviewqueue.cli import main

main(prog_name="reviewqueue")
