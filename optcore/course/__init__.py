"""Assignments: released to students, checked in their notebooks, graded in a sandbox."""

from optcore.course.checks import begin, check, expect

__all__ = ["begin", "check", "expect"]
