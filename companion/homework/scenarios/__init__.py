"""What runs beside a submission, a module a chapter: it calls what the student wrote."""
