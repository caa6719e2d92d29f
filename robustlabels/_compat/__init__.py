"""What third parties broke, mended from outside: one file each, with the version and the symptom.

Importing this package, or ``robustlabels``, changes nothing. What stands in for a missing module is
in ``sys.modules`` only while the package that asks for it is imported, and a function of theirs is
replaced only for the length of a call.
"""
