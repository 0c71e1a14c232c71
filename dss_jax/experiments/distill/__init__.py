"""`dss-jax distill`: from a table and a large model to a small student.

A distillation is made of the other modes' commands, each a process of its own
with an ordinary folder of its own:

    project.py           the options, and where everything lies
    commands.py          runs a mode's command, and remembers those that are done
    student_settings.py  how the students are configured
    distillation.py      the commands in their order, and what is asked between
    outcome.py           which student is the better one, and what to try next
"""
