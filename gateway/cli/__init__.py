"""The command line: starting the gateway, and every management action of the REST API.

Management commands run the very REST handlers in this process, as the operator, against the stores
that the settings name; so a command and its endpoint cannot come to differ.
"""
