"""What an output is: checked against its kind and schema, shown safely, compared, edited.

Pure: `fits` checks, `show` makes markup, `diff` compares, `fields` makes a form and reads it back.
"""
