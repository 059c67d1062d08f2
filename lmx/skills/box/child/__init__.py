"""What runs in a box's processes: sets up the containment, then becomes or calls the skill.

Nothing but the standard library, and little of it: every import here is paid by every run.
"""
