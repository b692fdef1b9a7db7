package invoke

// CheckAccess returns the check of rules.
func CheckAccess(r AccessRules) func(namespace, appID, target, verb string) error {
	a := newAccess(r)
	return func(namespace, appID, target, verb string) error {
		_, err := a.check(Caller{Namespace: namespace, AppID: appID}, target, verb)
		return err
	}
}
