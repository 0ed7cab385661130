def write_extract_report(run, path):
    pass
