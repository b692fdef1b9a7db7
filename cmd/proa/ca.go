package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/proa-io/proa/mesh/identity"
	"github.com/proa-io/proa/runtime"
)

func caCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "ca", Short: "Look at the authority that the sidecars of a home folder trust, renew its keys, issue certificates",
		Long: `The sidecars of one home folder that speak mutual TLS share an authority, which
the first of them makes, and which renews its keys by itself before they end. For
other hosts it can issue certificates.

Who can read its file can speak for every application: for production, let SPIRE,
cert-manager or another provider issue identities (--spiffe-endpoint,
--identity-cert).`,
	})
	cmd.AddCommand(caShow(), caInit(), caRotate(), caIssue(), caRoots())
	return cmd
}

// caFlags say which authority is meant.
type caFlags struct{ home string }

func (f *caFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.home, "home", "", "folder the sidecars share; $PROA_HOME or ~/.local/share/proa by default")
}

func (f *caFlags) file() (string, error) {
	home, err := runtime.Home(f.home)
	return runtime.AuthorityFile(home), err
}

// read returns the authority and the file it is in.
func (f *caFlags) read() (*identity.Authority, string, error) {
	file, err := f.file()
	if err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("there is no authority in %s yet: proa ca init makes one, as does the first sidecar with --mtls", file)
	}
	if err != nil {
		return nil, "", err
	}
	a, err := identity.DecodeAuthority(text)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	return a, file, nil
}

func caShow() *cobra.Command {
	var f caFlags
	cmd := &cobra.Command{
		Use: "show", Short: "Show the authority's keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, file, err := f.read()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "trust domain  %s\nfile          %s\n\n", a.TrustDomain, file)
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "KEY\tTRUSTED UNTIL\tSIGNS FROM")
			for _, k := range a.Keys() {
				fmt.Fprintf(w, "%x\t%s\t%s\n", k.Certificate.SerialNumber, k.Certificate.NotAfter.Local().Format(time.DateTime), signsFrom(k.Active))
			}
			return w.Flush()
		},
	}
	f.register(cmd)
	return cmd
}

func signsFrom(t time.Time) string {
	if t.IsZero() {
		return "always"
	}
	return t.Local().Format(time.DateTime)
}

func caInit() *cobra.Command {
	var f caFlags
	var domain string
	var life time.Duration
	cmd := &cobra.Command{
		Use: "init", Short: "Make an authority", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := f.file()
			if err != nil {
				return err
			}
			a, err := identity.NewAuthority(domain, time.Now(), identity.AuthorityOptions{RootLife: life})
			if err != nil {
				return err
			}
			text, err := a.Encode()
			if err != nil {
				return err
			}
			err = identity.Create(file, text)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s holds an authority already; proa ca rotate renews its keys", file)
			}
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "the authority of %s is in %s\n", domain, file)
			}
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&domain, "trust-domain", "public", "name of the trust domain; accessControl.trustDomain of the sidecars' Configuration")
	cmd.Flags().DurationVar(&life, "life", identity.DefaultRootLife, "how long a key is trusted; it is renewed when a third of that is left")
	return cmd
}

func caRotate() *cobra.Command {
	var f caFlags
	var overlap time.Duration
	cmd := &cobra.Command{
		Use: "rotate", Short: "Give the authority another key", Args: cobra.NoArgs,
		Long: `Gives the authority another key. It is trusted at once, and signs once the overlap
is over, when every sidecar has seen it; the former key is trusted until what it
has signed has ended. No connection and no request fails.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, file, err := f.read()
			if err != nil {
				return err
			}
			a, _, err := identity.Update(file, func(a *identity.Authority) (*identity.Authority, error) {
				return a.Rotate(time.Now(), overlap, identity.AuthorityOptions{})
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the new key signs from %s\n", a.Signs().Local().Format(time.DateTime))
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().DurationVar(&overlap, "overlap", identity.DefaultLeafLife, "how long the new key is trusted before it signs")
	return cmd
}

func caIssue() *cobra.Command {
	var f caFlags
	var namespace, out string
	var life time.Duration
	cmd := &cobra.Command{
		Use: "issue APP", Short: "Issue the certificate of a sidecar on another host", Args: cobra.ExactArgs(1),
		Example: "  proa ca issue shop --out ./shop-identity\n" +
			"  proa sidecar --app-id shop --mtls strict --identity-cert cert.pem --identity-key key.pem --identity-roots roots.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, file, err := f.read()
			if err != nil {
				return err
			}
			a, _, err := identity.Update(file, func(a *identity.Authority) (*identity.Authority, error) { return a.Promise(life), nil })
			if err != nil {
				return err
			}
			doc, err := a.Issue(identity.ID{TrustDomain: a.TrustDomain, Namespace: namespace, AppID: args[0]}, time.Now(), life)
			if err != nil {
				return err
			}
			if err := writeDocument(out, doc); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s until %s: cert.pem, key.pem and roots.pem in %s\n", doc.ID, doc.Expiry().Local().Format(time.DateTime), out)
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&namespace, "namespace", "default", "namespace of the application")
	cmd.Flags().StringVar(&out, "out", ".", "folder to write to")
	cmd.Flags().DurationVar(&life, "life", 30*24*time.Hour, "how long the certificate is good for")
	return cmd
}

func writeDocument(dir string, doc *identity.Document) error {
	key, err := x509.MarshalPKCS8PrivateKey(doc.Certificate.PrivateKey)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		text []byte
	}{
		{"key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})},
		{"cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: doc.Certificate.Certificate[0]})},
		{"roots.pem", rootsPEM(doc.Roots)},
	} {
		if err := identity.Replace(filepath.Join(dir, file.name), file.text); err != nil {
			return err
		}
	}
	return nil
}

func rootsPEM(roots []*x509.Certificate) (out []byte) {
	for _, r := range roots {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})...)
	}
	return out
}

func caRoots() *cobra.Command {
	var f caFlags
	cmd := &cobra.Command{
		Use: "roots", Short: "Print the certificates to trust, in PEM", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, _, err := f.read()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(rootsPEM(a.Roots()))
			return err
		},
	}
	f.register(cmd)
	return cmd
}
