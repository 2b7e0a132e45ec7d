class PromptFileError(Exception):
    pass
