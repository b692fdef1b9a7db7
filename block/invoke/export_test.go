package invoke

// CheckAccess returns the check of rules.
func CheckAccess(r AccessRules) func(namespace, appID, target, verb string) error {
	return newAccess(r).check
}
