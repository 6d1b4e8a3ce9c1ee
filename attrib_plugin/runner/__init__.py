"""Many inputs and whole explanations: what demo, command line, report and notebook share."""
