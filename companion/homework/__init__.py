"""The graders behind ``companion check``.

    from companion.homework import grade
    print(grade("backprop", "my.py"))

:mod:`companion.homework.grading` tells how a file is graded.
"""

from companion.homework.grading import Grader, Report, TaskResult, chapters, grade, stub

__all__ = ["Grader", "Report", "TaskResult", "chapters", "grade", "stub"]
