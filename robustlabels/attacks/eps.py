from robustlabels.threat import check_norm as check_norm, parse_eps as parse_eps
