"""Tells of faces: expression, head pose, landmarks, gaze, blinks, mouth and smile, followed over frames."""
