"""The folder or zip file of a data set: its files, their names and their text."""
