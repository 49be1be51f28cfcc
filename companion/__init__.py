"""companion: the tested code behind the course *Compute for Large Models*.

Import the module you need, by its full path; this package imports nothing by itself, so
``import companion`` costs a few milliseconds::

    from companion.data.digits import Digits
    from companion.training import Classifier, fit

``companion techniques`` on the command line lists everything that is here.
"""

__version__ = "0.1.0"
