"""Makes the tests one package, so that two files may have the same name and share the modules beside this one."""
