"""Fixtures for every test: the test bed's servers are started once, when first asked for."""

pytest_plugins = ["testbed.fixtures", "testbed.fault_log"]
