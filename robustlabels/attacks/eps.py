from robustlabels.threat import check_norm as check_norm
from robustlabels.threat import parse_eps as parse_eps
