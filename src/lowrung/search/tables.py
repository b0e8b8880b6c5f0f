"""The tables of Optuna's database, which `lowrung.search.mirror` writes and `lowrung.search.recorded` reads."""

from optuna.storages._rdb import models

STUDIES = models.StudyModel.__table__
STUDY_USER_ATTRS = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS = models.StudySystemAttributeModel.__table__
TRIALS = models.TrialModel.__table__
PARAMS = models.TrialParamModel.__table__
VALUES = models.TrialValueModel.__table__
REPORTS = models.TrialIntermediateValueModel.__table__
USER_ATTRS = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS = models.TrialSystemAttributeModel.__table__
